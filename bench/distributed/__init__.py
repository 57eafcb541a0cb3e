"""Processes of a run: launch, parameter sharding, the watchdog over them, votes and signals.

Reading order: launcher (what was asked for), setup (join the processes), sharding (ZeRO, FSDP2), prepared_shards
(to and from them), in_step (forwards of a sharded model), live_model (a sharded model and its engine), signed_store
(messages of this launch only), watchdog (dead or silent processes), vote (stop and save flags), signals (what ends a
run).
"""
