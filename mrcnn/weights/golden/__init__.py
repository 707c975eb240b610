"""Recorded outputs of torchvision's and detectron2's networks for one image, with weights computed from a formula.

formula    the weights and the picture
records    the outputs of the original networks, stage by stage, and what of a stage they hold
stages     runs a network of this package, and compares each stage

Six networks were recorded: torchvision v1 and v2; detectron2's R50-FPN, R50-C4, cascade R50-FPN and LSJ R50-FPN. They
show that this package computes the same on a machine, without a download (`python -m mrcnn.verify`).
"""
