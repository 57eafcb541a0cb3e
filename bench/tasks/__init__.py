"""Tasks: one file each. See CONTRIBUTING.md."""
