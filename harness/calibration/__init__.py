"""Calibration: what the paths of a rack carry, stored with its date and the hardware."""
