"""A Slurm without daemons for tests: see `fake.fake_slurm`."""
