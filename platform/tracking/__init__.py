"""What MLflow holds of a study: runs, figures, notes, models."""
