"""Deciding: desired, recorded and live in, a plan out. Pure."""
