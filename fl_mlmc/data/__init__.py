"""What a data set is to a run: the shape of its examples, how texts become numbers, and who owns which rows."""
