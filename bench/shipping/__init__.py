"""Makes the forms in which a finished run's model is shipped, and tests whether each is still the same model.

Reading order: names (forms by the words of the command line), source (the run: its model, examples and prompts),
verdict (changed answers, equivalence), timing, form (the contract), whole (merged, int8 and NF4, by transformers),
other_engine (a model that another program runs, as readers call it), onnx_form, gguf_form, served (an OpenAI-compatible
server), making (all forms of a run, one after the other), results (what is written) and page.
"""
