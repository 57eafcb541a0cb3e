"""Other programs than torch that score and write answers to the run's prompts, sent as tokens.

Reading order: engine (the contract, and how readers use one), completions_api (requests to a server), prompt_probe (the
server's tokens of the prompts are the run's own), served (a server that speaks the OpenAI completions API), in_process
(the package vllm), equality (what an engine gives against the plain scorer, on a sample).
"""
