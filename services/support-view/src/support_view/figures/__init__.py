"""Figures of quality: what they count, how they are defined, and what they come to."""
