"""edgebench: which model, at which quantization, on which runtime, should I ship on this device?"""

__version__ = "0.1.0"
