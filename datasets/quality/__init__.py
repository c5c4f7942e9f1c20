"""The quality report of a preparation: figures taken of each run, and one HTML page that shows them."""
