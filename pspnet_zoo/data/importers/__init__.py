"""Labels of other tools and layouts, read and written as the folder layout."""
