//! MySQL and MariaDB as an SQL database.
