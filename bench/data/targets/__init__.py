"""Gold values of rows: a file for each kind of target.

Reading order: target (the contract), label (one or several of a set), answers (spans of a passage), reference (texts to
write), choices (of a row's own), written (gold texts of written answers), number (a number), tags (a tag for each
word), kinds (task -> file).
"""
