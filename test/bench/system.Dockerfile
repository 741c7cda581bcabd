# The application on an image of the size that real ones have: compilers, scientific Python and a JDK, a layer each.
FROM hakobune-test/app
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends g++ cmake python3-scipy python3-pandas \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
RUN install -d /usr/share/man/man1 && apt-get update -q \
 && apt-get install -y -q --no-install-recommends openjdk-17-jdk-headless \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
