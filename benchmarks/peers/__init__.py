"""What the consumer is compared with: the two ways people build this by hand. Programs of their own, started by the benchmark."""
