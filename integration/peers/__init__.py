"""NVIDIA Triton, MLServer and perf_analyzer as they come from PyPI, each run on models of a repository of ours."""
