"""Recipes and cards: types, strict YAML, resolution, rules, and the drop-in registry. Loads no torch.

Reading order: recipe, training and cards (types), resolve (file -> Resolved), rules (cross-field checks), architecture
(fields of a model's config), validation (errors as sentences), yaml_loader and layers (values with their places),
fields, overrides, json_schema, contracts (what drop-ins promise), registry (how they are found).
"""
