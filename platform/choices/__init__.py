"""What a trial may choose from by name: activations, augmentations, losses, optimizers, schedules."""
