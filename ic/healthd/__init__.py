"""The health daemon's rooms."""
