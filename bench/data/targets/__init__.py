"""What is to be predicted of a row: how its gold value is read, a file for each kind.

Reading order: target (the contract), label (one or several of a set), answers (spans of a passage), choices (of
a row's own), written (gold texts of written answers), kinds (task -> file).
"""
