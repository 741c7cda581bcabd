#!/bin/bash
# Runs MariaDB; on an empty data directory makes the system tables first. Database and user are made if they are not there.
set -eu
data=/var/lib/mysql
install -d -o mysql -g mysql /run/mysqld "$data"
if [ ! -d "$data/mysql" ]; then
  mariadb-install-db --user=mysql --datadir="$data" --skip-test-db >/dev/null
fi
name=${MARIADB_DATABASE:-courses} user=${MARIADB_USER:-courses} password=${MARIADB_PASSWORD:-courses}
cat >/run/mysqld/init.sql <<SQL
CREATE DATABASE IF NOT EXISTS $name CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS '$user'@'%' IDENTIFIED BY '$password';
GRANT ALL ON $name.* TO '$user'@'%';
SQL
exec mariadbd --user=mysql --init-file=/run/mysqld/init.sql
