"""What is to be predicted of a row: how its gold value is read, a file for each kind.

Reading order: target (the contract), label (one or several of a set), answers (spans of a passage), reference (texts to
write), choices (of a row's own), written (gold texts of written answers), number (a number), tags (a tag for each
word), kinds (task -> file).
"""
