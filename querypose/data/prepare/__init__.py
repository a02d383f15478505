"""Preparation of CrowdPose and Mini-COCO for training."""
