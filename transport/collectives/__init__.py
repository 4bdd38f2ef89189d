"""Operations among several peers: the direct reduce, a fetch from many donors."""
