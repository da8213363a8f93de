"""Compose files to a typed stack."""
