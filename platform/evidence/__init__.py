"""What a closed study's scores show: further scores, estimates, nulls, findings, and the verdict in one word."""
