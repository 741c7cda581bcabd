FROM hakobune-test/base
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends mariadb-server \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/lib/mysql/* \
    /usr/bin/aria_* /usr/bin/myisam* /usr/bin/mariadb-slap /usr/bin/mariadb-binlog /usr/bin/mariadb-conv /usr/bin/mariadb-import
COPY small.cnf /etc/mysql/mariadb.conf.d/99-small.cnf
COPY db.sh /usr/local/bin/
HEALTHCHECK --interval=2s --timeout=5s --start-period=60s --retries=5 CMD mariadb -uroot -e 'SELECT 1' || exit 1
EXPOSE 3306
CMD ["db.sh"]
