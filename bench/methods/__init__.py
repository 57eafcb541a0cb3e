"""Fine-tuning methods, one file each: which parameters are trained, and how they are loaded."""
