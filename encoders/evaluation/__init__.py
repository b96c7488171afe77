"""How good an encoder is: tasks, measures, baselines and the report."""
