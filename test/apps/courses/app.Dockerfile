FROM hakobune-test/db
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends lighttpd php-cgi php-mysql \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY lighttpd.conf /etc/courses/
COPY web.sh all.sh healthy.sh /usr/local/bin/
COPY index.php /srv/courses/
RUN install -d -o www-data -g www-data /var/lib/courses
HEALTHCHECK --interval=2s --timeout=5s --start-period=60s --retries=5 CMD healthy.sh
EXPOSE 80
CMD ["all.sh"]
