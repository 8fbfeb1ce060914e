"""A stand-in for an Android phone, made of Debian packages: see `stand_in.phone`."""
