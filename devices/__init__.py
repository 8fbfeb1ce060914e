"""Devices: hosts, profiles, and what can be read off them (processor time, memory, state)."""
