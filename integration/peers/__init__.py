"""NVIDIA Triton, MLServer and perf_analyzer as they come from PyPI, each run on the models of a repository of ours."""
