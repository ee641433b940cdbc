"""Several serving processes that answer as one."""
