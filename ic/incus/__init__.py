"""The way to Incus and to image registries: sockets live here and nowhere else."""
