"""Recipes and cards: types, strict YAML, resolution, rules, and the drop-in registry. Loads no torch.

Reading order: recipe, training, data_part, cards and data_source (types), resolve (file -> Resolved), named_cards,
card_overrides, recipe_names (name -> file), study_file (its title), recipe_hash, model_paths, without_model, rules
(cross-field checks), loss_rules, also_rules, backend_rules, temperature_rules, architecture (fields of a model's
config), unused and without_effect (keys without effect, in recipes and in records), validation
(errors as sentences), other_tools (names of settings elsewhere),
yaml_loader and layers (values with their places), prices (of devices), data_folder, fields, overrides, card_text (cards
as YAML), also_cards (those that other keys name), descriptions (what keys mean), json_schema, contracts (what drop-ins
promise), registry (how they are found), foreign_code (what must be confirmed before it runs), extraction (parts of
answers), bf16_products (the key that asks for bfloat16).
"""
