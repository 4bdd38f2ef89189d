"""What a run will do on given links, by formula."""
