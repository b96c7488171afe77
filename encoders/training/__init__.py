"""Contrastive training of MOON encoders: sampling, objectives, momentum queue, loop and checkpoints. Needs torch."""
