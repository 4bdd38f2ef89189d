"""Stages: a model cut into parts that train together, each in a process of its own or all in one."""
