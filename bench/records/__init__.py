"""The record that a run leaves, and the measurements that go into it.

Reading order: record (types), causes (of its warnings), store (read, write, find), failures (exception -> status),
energy (joules by the devices' counters), clock (phases, memory peaks), throughput (token counters, step times),
environment (versions, devices).
"""
