"""A renderer of synthetic people with exact keypoints, and the data sets made with it."""
