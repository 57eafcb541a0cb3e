"""`python -m bench <command>`: one file per command; `main` puts them together, `options` is shared by several."""
