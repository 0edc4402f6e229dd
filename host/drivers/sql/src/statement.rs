//! Reads a plugin's statement far enough to know what it is, before it is sent.
//!
//! Refused is what would end the transaction around it, change the session that the next caller gets, or reach past this
//! database and its limits. That is not the whole defence: access is enforced by the session, an account's rights by the
//! server, and only one statement at a time is sent, prepared, so that nothing can hide behind it.
//!
//! Invariants
//! - Where a text is read in another way than the server may read it, the statement is refused: comments that are run, names
//!   that are spelt by code points.
//! - Words are looked at outside of texts and comments alone; a name in quotes counts as its word.
//!
//! Not here: whether the statement is right, which the server says.

use sandpost_ports::PortError;
use sandpost_ports::sql::Access;
use std::fmt::Write as _;

/// Longest statement, as of the embedded driver.
const STATEMENT_MAX_BYTES: usize = 1_000_000;

/// Whose SQL is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Mysql,
    Postgres,
}

/// Where a statement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing around it: it is committed by itself.
    Alone,
    /// In a transaction that goes on after it.
    Transaction,
}

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It answers rows. A function of it may still write.
    Read,
    /// It changes rows.
    Write,
    /// It makes, changes or drops tables, indexes, views.
    Define,
}

/// A statement that may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    /// In the server's words: with its placeholders, without what follows the end.
    pub(crate) text: String,
    pub(crate) kind: Kind,
    /// Whether `RETURNING` is in it: it may change rows and answer them.
    pub(crate) is_returning: bool,
}

/// A part of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// In upper case.
    Word(String),
    /// A name in quotes, in upper case.
    Name(String),
    Text,
    Symbol(u8),
}

/// What begins a statement that answers rows.
const READING: &[&str] = &["SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN"];
const READING_OF_MYSQL: &[&str] = &["DESCRIBE", "DESC"];

/// What begins one that changes rows.
const WRITING: &[&str] = &["INSERT", "UPDATE", "DELETE"];
const WRITING_OF_MYSQL: &[&str] = &["REPLACE"];
const WRITING_OF_POSTGRES: &[&str] = &["MERGE"];

/// What begins one that is about tables; of those in `OF_…` the next word says nothing more.
const DEFINING: &[&str] = &["CREATE", "ALTER", "DROP"];
const DEFINING_ALONE: &[&str] = &["TRUNCATE"];
const DEFINING_OF_MYSQL: &[&str] = &["RENAME"];
const DEFINING_OF_POSTGRES: &[&str] = &["COMMENT"];

/// What may be made, changed and dropped, and the words that may stand before it.
const DEFINED: &[&str] = &["TABLE", "INDEX", "VIEW", "SEQUENCE"];
const DEFINED_OF_POSTGRES: &[&str] = &["TYPE"];
const BEFORE_DEFINED: &[&str] = &["OR", "REPLACE", "UNIQUE", "FULLTEXT", "SPATIAL", "MATERIALIZED", "UNLOGGED"];

/// Known to both servers and not offered; any other first word is a mistake.
const NOT_OFFERED: &[&str] = &[
    "ABORT",
    "ANALYZE",
    "BEGIN",
    "CALL",
    "CHECKPOINT",
    "CLOSE",
    "CLUSTER",
    "COMMIT",
    "COPY",
    "DEALLOCATE",
    "DECLARE",
    "DISCARD",
    "DO",
    "END",
    "EXECUTE",
    "FETCH",
    "FLUSH",
    "GRANT",
    "HANDLER",
    "IMPORT",
    "INSTALL",
    "KILL",
    "LISTEN",
    "LOAD",
    "LOCK",
    "MOVE",
    "NOTIFY",
    "OPTIMIZE",
    "PREPARE",
    "PURGE",
    "REASSIGN",
    "REFRESH",
    "REINDEX",
    "RELEASE",
    "REPAIR",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SET",
    "SHUTDOWN",
    "START",
    "UNINSTALL",
    "UNLISTEN",
    "UNLOCK",
    "USE",
    "VACUUM",
    "XA",
];

/// Functions that reach past the statement: locks that outlive it, files, other sessions, statements in texts.
const FUNCTIONS_OF_MYSQL: &[&str] = &[
    "GET_LOCK",
    "RELEASE_LOCK",
    "RELEASE_ALL_LOCKS",
    "LOAD_FILE",
    "MASTER_POS_WAIT",
    "SOURCE_POS_WAIT",
    "WAIT_FOR_EXECUTED_GTID_SET",
];
const FUNCTIONS_OF_POSTGRES: &[&str] = &[
    "SET_CONFIG",
    "PG_TERMINATE_BACKEND",
    "PG_CANCEL_BACKEND",
    "PG_RELOAD_CONF",
    "PG_ROTATE_LOGFILE",
    "PG_READ_FILE",
    "PG_READ_BINARY_FILE",
    "PG_LS_DIR",
    "LO_IMPORT",
    "LO_EXPORT",
    "QUERY_TO_XML",
    "QUERY_TO_XMLSCHEMA",
    "QUERY_TO_XML_AND_XMLSCHEMA",
    "CURSOR_TO_XML",
    "TS_STAT",
    "DBLINK",
    "DBLINK_EXEC",
    "DBLINK_CONNECT",
];

/// Reads it, and says why it may not be sent where it may not.
pub(crate) fn check(statement: &str, dialect: Dialect, access: Access, place: Place) -> Result<Checked, PortError> {
    if statement.len() > STATEMENT_MAX_BYTES {
        return Err(PortError::invalid(format!("the statement has more than {STATEMENT_MAX_BYTES} bytes")));
    }
    let (tokens, text) = Reader::new(statement, dialect).read()?;
    let mut words = tokens.iter().filter(|token| !matches!(token, Token::Symbol(b'(')));
    let first = match words.next() {
        Some(Token::Word(word)) => word.as_str(),
        Some(_) => return Err(PortError::invalid("a statement begins with a word")),
        None => return Err(PortError::invalid("there is no statement")),
    };
    let is = |of_both: &[&str], of_mysql: &[&str], of_postgres: &[&str]| {
        let own = if dialect == Dialect::Mysql { of_mysql } else { of_postgres };
        of_both.contains(&first) || own.contains(&first)
    };
    let kind = if is(READING, READING_OF_MYSQL, &[]) {
        Kind::Read
    } else if is(WRITING, WRITING_OF_MYSQL, WRITING_OF_POSTGRES) {
        Kind::Write
    } else if is(DEFINING_ALONE, DEFINING_OF_MYSQL, DEFINING_OF_POSTGRES) {
        Kind::Define
    } else if is(DEFINING, &[], &[]) {
        defines(first, &tokens, dialect)?;
        Kind::Define
    } else if NOT_OFFERED.contains(&first) {
        return Err(not_offered(first));
    } else {
        return Err(PortError::invalid(format!("a statement cannot begin with `{}`", shortened(first))));
    };
    if access == Access::ReadOnly && kind != Kind::Read {
        return Err(PortError::invalid("this access is read-only"));
    }
    if kind == Kind::Define && place == Place::Transaction && dialect == Dialect::Mysql {
        return Err(PortError::unsupported(
            "MySQL commits at a change of tables, so it cannot be part of a transaction",
        ));
    }
    refuse_words(&tokens, dialect)?;
    let is_returning = tokens.iter().any(|token| matches!(token, Token::Word(word) if word == "RETURNING"));
    Ok(Checked { text, kind, is_returning })
}

fn not_offered(what: &str) -> PortError {
    PortError::unsupported(format!("{what} is not offered here"))
}

fn shortened(word: &str) -> String {
    word.chars().take(32).collect()
}

/// `CREATE`, `ALTER` or `DROP` must go on with something that belongs to tables.
fn defines(first: &str, tokens: &[Token], dialect: Dialect) -> Result<(), PortError> {
    let words = tokens.iter().skip(1);
    let mut words =
        words.skip_while(|token| matches!(token, Token::Word(word) if BEFORE_DEFINED.contains(&word.as_str())));
    match words.next() {
        Some(Token::Word(word)) if DEFINED.contains(&word.as_str()) => Ok(()),
        Some(Token::Word(word)) if dialect == Dialect::Postgres && DEFINED_OF_POSTGRES.contains(&word.as_str()) => {
            Ok(())
        }
        Some(Token::Word(word)) => Err(not_offered(&format!("{first} {}", shortened(word)))),
        _ => Err(PortError::invalid(format!("{first} of what?"))),
    }
}

fn refuse_words(tokens: &[Token], dialect: Dialect) -> Result<(), PortError> {
    let functions = match dialect {
        Dialect::Mysql => FUNCTIONS_OF_MYSQL,
        Dialect::Postgres => FUNCTIONS_OF_POSTGRES,
    };
    for (at, token) in tokens.iter().enumerate() {
        let next = tokens.get(at + 1);
        match token {
            Token::Word(word) | Token::Name(word)
                if functions.contains(&word.as_str()) && next == Some(&Token::Symbol(b'(')) =>
            {
                return Err(not_offered(&format!("the function {word}")));
            }
            Token::Word(word) if word == "INTO" && dialect == Dialect::Mysql => {
                if let Some(Token::Word(file)) = next
                    && (file == "OUTFILE" || file == "DUMPFILE")
                {
                    return Err(not_offered(&format!("INTO {file}")));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Goes through a statement once.
struct Reader<'s> {
    statement: &'s str,
    bytes: &'s [u8],
    at: usize,
    dialect: Dialect,
    tokens: Vec<Token>,
    /// The statement as the server gets it.
    text: String,
    /// Up to where `statement` is in `text`.
    copied: usize,
    placeholders: usize,
}

impl<'s> Reader<'s> {
    fn new(statement: &'s str, dialect: Dialect) -> Self {
        let (bytes, text) = (statement.as_bytes(), String::with_capacity(statement.len() + 16));
        Self { statement, bytes, at: 0, dialect, tokens: Vec::new(), text, copied: 0, placeholders: 0 }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn read(mut self) -> Result<(Vec<Token>, String), PortError> {
        let is_mysql = self.dialect == Dialect::Mysql;
        let mut end = None;
        while let Some(byte) = self.peek(0) {
            let begins_comment = match (byte, self.peek(1)) {
                (b'/', Some(b'*')) | (b'-', Some(b'-')) => true,
                (b'#', _) => is_mysql,
                _ => false,
            };
            if byte.is_ascii_whitespace() || byte == 0x0b {
                self.at += 1;
            } else if begins_comment {
                self.comment()?;
            } else if end.is_some() {
                return Err(PortError::invalid("there is a second statement; one call runs one"));
            } else {
                match byte {
                    0 => return Err(PortError::invalid("the statement holds a NUL character")),
                    b';' => {
                        end = Some(self.at);
                        self.at += 1;
                    }
                    b'?' => self.placeholder(),
                    b'\'' => {
                        let is_escaped = match (&self.dialect, self.tokens.last()) {
                            (Dialect::Mysql, _) => true,
                            // The word ends right where the text begins.
                            (Dialect::Postgres, Some(Token::Word(word))) => {
                                word == "E" && self.at > 0 && self.bytes[self.at - 1].eq_ignore_ascii_case(&b'E')
                            }
                            (Dialect::Postgres, _) => false,
                        };
                        self.quoted(b'\'', is_escaped)?;
                        if is_escaped && !is_mysql {
                            self.no_text_follows()?;
                        }
                        self.tokens.push(Token::Text);
                    }
                    b'"' if is_mysql => {
                        self.quoted(b'"', true)?;
                        self.tokens.push(Token::Text);
                    }
                    b'"' => {
                        if self.at > 1
                            && self.bytes[self.at - 1] == b'&'
                            && self.bytes[self.at - 2].eq_ignore_ascii_case(&b'U')
                        {
                            return Err(not_offered("a name spelt by code points (U&)"));
                        }
                        let name = self.quoted(b'"', false)?;
                        self.tokens.push(Token::Name(name));
                    }
                    b'`' if is_mysql => {
                        let name = self.quoted(b'`', false)?;
                        self.tokens.push(Token::Name(name));
                    }
                    b'@' if is_mysql => return Err(not_offered("a variable of the session (@)")),
                    b'$' if !is_mysql => self.dollar()?,
                    _ if is_of_word(byte) => self.word(),
                    symbol => {
                        self.tokens.push(Token::Symbol(symbol));
                        self.at += 1;
                    }
                }
            }
        }
        self.text.push_str(&self.statement[self.copied..end.unwrap_or(self.statement.len())]);
        Ok((self.tokens, self.text))
    }

    fn word(&mut self) {
        let start = self.at;
        while self.peek(0).is_some_and(|byte| is_of_word(byte) || byte == b'$') {
            self.at += 1;
        }
        self.tokens.push(Token::Word(self.statement[start..self.at].to_ascii_uppercase()));
    }

    /// Takes a `?`; on Postgres it becomes `$1`, and `??` an operator with one `?`.
    fn placeholder(&mut self) {
        if self.dialect == Dialect::Postgres {
            self.text.push_str(&self.statement[self.copied..self.at]);
            if self.peek(1) == Some(b'?') {
                self.text.push('?');
                self.at += 1;
            } else {
                self.placeholders += 1;
                // Writing to a string does not fail.
                _ = write!(self.text, "${}", self.placeholders);
            }
            self.copied = self.at + 1;
        }
        self.tokens.push(Token::Symbol(b'?'));
        self.at += 1;
    }

    /// Passes over a comment, or over one dash where two are none.
    fn comment(&mut self) -> Result<(), PortError> {
        let is_mysql = self.dialect == Dialect::Mysql;
        if self.peek(0) == Some(b'/') {
            if is_mysql && matches!((self.peek(2), self.peek(3)), (Some(b'!'), _) | (Some(b'M'), Some(b'!'))) {
                return Err(not_offered("a comment that is run (/*!)"));
            }
            if is_mysql && self.peek(2) == Some(b'+') {
                return Err(not_offered("a hint (/*+), which may lift limits,"));
            }
            let mut depth = 0_usize;
            loop {
                match (self.peek(0), self.peek(1)) {
                    (Some(b'/'), Some(b'*')) if depth == 0 || !is_mysql => {
                        depth += 1;
                        self.at += 2;
                    }
                    (Some(b'*'), Some(b'/')) => {
                        depth -= 1;
                        self.at += 2;
                        if depth == 0 {
                            return Ok(());
                        }
                    }
                    (Some(_), _) => self.at += 1,
                    (None, _) => return Err(PortError::invalid("a comment has no end")),
                }
            }
        }
        // On MySQL a space has to follow: `5--1` is six.
        let is_comment = self.peek(0) == Some(b'#')
            || !is_mysql
            || self.peek(2).is_none_or(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control());
        if !is_comment {
            self.tokens.push(Token::Symbol(b'-'));
            self.at += 1;
            return Ok(());
        }
        while self.peek(0).is_some_and(|byte| byte != b'\n' && (is_mysql || byte != b'\r')) {
            self.at += 1;
        }
        Ok(())
    }

    /// Passes over what is in quotes, and returns it in upper case.
    fn quoted(&mut self, quote: u8, is_escaped: bool) -> Result<String, PortError> {
        self.at += 1;
        let mut inside = Vec::new();
        loop {
            match self.peek(0) {
                None => return Err(PortError::invalid("a quote has no end")),
                Some(0) if self.dialect == Dialect::Postgres => {
                    return Err(PortError::invalid("the statement holds a NUL character"));
                }
                Some(b'\\') if is_escaped => self.at += 2,
                Some(byte) if byte == quote => {
                    self.at += 1;
                    if self.peek(0) != Some(quote) {
                        return Ok(String::from_utf8_lossy(&inside).to_ascii_uppercase());
                    }
                    inside.push(quote);
                    self.at += 1;
                }
                Some(byte) => {
                    inside.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    /// A text after an `E''` would be read on as one, with its escapes.
    fn no_text_follows(&self) -> Result<(), PortError> {
        let rest = &self.statement[self.at..];
        if rest.trim_start().starts_with(['\'']) || rest.trim_start().starts_with("--") {
            return Err(PortError::invalid("a text or a comment follows right after an E'' text"));
        }
        Ok(())
    }

    /// `$tag$ … $tag$`
    fn dollar(&mut self) -> Result<(), PortError> {
        let rest = &self.statement[self.at..];
        if rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            return Err(PortError::invalid("placeholders are `?`"));
        }
        let Some(length) = rest[1..].find('$').filter(|length| rest[1..=*length].bytes().all(is_of_word)) else {
            return Err(PortError::invalid("a `$` that begins nothing"));
        };
        let tag = &rest[..length + 2];
        let Some(end) = rest[tag.len()..].find(tag) else {
            return Err(PortError::invalid("a quote has no end"));
        };
        if rest[..tag.len() + end].contains('\0') {
            return Err(PortError::invalid("the statement holds a NUL character"));
        }
        self.at += tag.len() * 2 + end;
        self.tokens.push(Token::Text);
        Ok(())
    }
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandpost_ports::ErrorKind;

    fn of(statement: &str, dialect: Dialect) -> Result<Checked, PortError> {
        check(statement, dialect, Access::ReadWrite, Place::Alone)
    }

    #[test]
    fn placeholders_are_counted_up_outside_of_texts_and_comments() {
        #[track_caller]
        fn becomes(statement: &str, expected: &str) {
            assert_eq!(of(statement, Dialect::Postgres).unwrap().text, expected);
        }
        becomes("SELECT ?, ? ", "SELECT $1, $2 ");
        becomes("SELECT '?', ?", "SELECT '?', $1");
        becomes("SELECT 'it''s ?', ?", "SELECT 'it''s ?', $1");
        becomes(r"SELECT E'\'?', ?", r"SELECT E'\'?', $1");
        becomes(r"SELECT '\', ?", r"SELECT '\', $1");
        becomes(r#"SELECT "a?""?" FROM t WHERE b = ?"#, r#"SELECT "a?""?" FROM t WHERE b = $1"#);
        becomes("SELECT $$?$$, $a$ ? $$ $a$, ?", "SELECT $$?$$, $a$ ? $$ $a$, $1");
        becomes("SELECT 1 -- ?\n, ?", "SELECT 1 -- ?\n, $1");
        becomes("SELECT /* ? /* ? */ ? */ ?", "SELECT /* ? /* ? */ ? */ $1");
        becomes("SELECT a ?? 'x', b ??| c, ?", "SELECT a ? 'x', b ?| c, $1");
        becomes("SELECT ?;  -- done", "SELECT $1");
        becomes("SELECT ä$1 FROM t", "SELECT ä$1 FROM t");
        assert_eq!(of("SELECT ?;", Dialect::Mysql).unwrap().text, "SELECT ?");
    }

    #[test]
    fn kinds_are_told_by_the_first_word() {
        #[track_caller]
        fn is(statement: &str, kind: Kind) {
            for dialect in [Dialect::Mysql, Dialect::Postgres] {
                assert_eq!(of(statement, dialect).unwrap().kind, kind, "{statement}");
            }
        }
        is("select 1", Kind::Read);
        is("/* x */ (SELECT 1) UNION (SELECT 2)", Kind::Read);
        is("-- x\nWITH a AS (SELECT 1) SELECT * FROM a", Kind::Read);
        is("insert into t values (1)", Kind::Write);
        is("CREATE TABLE IF NOT EXISTS t (a INT)", Kind::Define);
        is("CREATE OR REPLACE VIEW v AS SELECT 1", Kind::Define);
        is("CREATE UNIQUE INDEX i ON t (a)", Kind::Define);
        is("TRUNCATE t", Kind::Define);
    }

    #[test]
    fn what_would_touch_the_session_or_reach_out_is_not_offered() {
        #[track_caller]
        fn refused(statement: &str, dialect: Dialect, kind: ErrorKind) {
            assert_eq!(of(statement, dialect).unwrap_err().kind, kind, "{statement}");
        }
        use Dialect::{Mysql, Postgres};
        for statement in [
            "SET x = 1",
            "COMMIT",
            "rollback",
            "BEGIN",
            "START TRANSACTION",
            "SAVEPOINT a",
            "CALL p()",
            "USE other",
            "LOCK TABLES t READ",
            "CREATE TEMPORARY TABLE t (a INT)",
            "DROP DATABASE d",
            "CREATE USER u",
            "CREATE FUNCTION f() RETURNS INT RETURN 1",
            "/* */ EXECUTE s",
            "DO 1",
            "CREATE TRIGGER t",
            "GRANT ALL ON t TO u",
        ] {
            refused(statement, Mysql, ErrorKind::Unsupported);
            refused(statement, Postgres, ErrorKind::Unsupported);
        }
        for statement in [
            "SELECT @a := 1",
            "SELECT 1 INTO @a",
            "SELECT @@global.x",
            "SELECT GET_LOCK('a', 1)",
            "SELECT `get_lock` ('a', 1)",
            "SELECT 1 /*! , SLEEP(1) */",
            "SELECT /*M! 1 */ 2",
            "SELECT 1 INTO OUTFILE '/tmp/x'",
            "SELECT load_file('/etc/passwd')",
            "SELECT /*+ MAX_EXECUTION_TIME(0) */ 1",
        ] {
            refused(statement, Mysql, ErrorKind::Unsupported);
        }
        for statement in [
            "SELECT set_config('a', 'b', false)",
            "SELECT \"set_config\"('a', 'b', false)",
            "SELECT pg_catalog.pg_terminate_backend(1)",
            "SELECT U&\"\\0073et_config\"('a', 'b', false)",
            "SELECT query_to_xml('x', true, true, '')",
        ] {
            refused(statement, Postgres, ErrorKind::Unsupported);
        }
        for statement in
            ["", " ;", "-- x", "SELEC 1", "SELECT 1; SELECT 2", "SELECT 'a", "SELECT /* a", "SELECT \0", "'a'"]
        {
            refused(statement, Mysql, ErrorKind::Invalid);
            refused(statement, Postgres, ErrorKind::Invalid);
        }
        for statement in
            ["SELECT $1", "SELECT $a", "SELECT $a$ b", "SELECT E'a'\n'b\\''", "SELECT E'a' --\n'b'", "SELECT '\0'"]
        {
            refused(statement, Postgres, ErrorKind::Invalid);
        }
        // A name that only looks so is one.
        assert!(of("SELECT get_lock FROM t WHERE outfile = 'COMMIT; @a'", Mysql).is_ok());
        assert!(of("SELECT 5--1, \"it's; @a\", 'a\\'; @b'", Mysql).is_ok());
    }

    #[test]
    fn access_and_place_are_looked_at() {
        let read_only = |statement| check(statement, Dialect::Mysql, Access::ReadOnly, Place::Alone);
        assert!(read_only("SELECT 1").is_ok());
        assert_eq!(read_only("DELETE FROM t").unwrap_err().message, "this access is read-only");
        let within = |dialect| check("CREATE TABLE t (a INT)", dialect, Access::ReadWrite, Place::Transaction);
        assert_eq!(within(Dialect::Mysql).unwrap_err().kind, ErrorKind::Unsupported);
        assert!(within(Dialect::Postgres).is_ok());
    }
}
