"""Tasks, one file each: how rows are encoded, what the loss is, how outputs become predictions."""
