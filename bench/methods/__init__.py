"""Methods: one file each. See CONTRIBUTING.md."""
