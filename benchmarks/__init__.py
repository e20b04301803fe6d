"""Measure parameters, GFLOPs, latency, throughput, memory and AP, each in its own process.

`README.md` in this folder describes the protocol. `suite` lists the `cases`, `runner` goes through
them, `worker` runs each in a process that calls `measure`, and `store` appends the result, with the
`environment`, to a file. `measure` gets the detector from `workload` or `baselines` and its images
from `dataset`, and calls `inference`, `training_memory`, `flops` or `accuracy`.
"""
