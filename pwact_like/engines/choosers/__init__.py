"""Engines that choose among frames those that are worth a label."""
