//! The user that an image names, looked up in the image's own `/etc/passwd` and `/etc/group`.

/// Whom the first process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Groups whose member the user is besides.
    pub groups: Vec<u32>,
    pub home: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("the image runs as user {0:?}, which its /etc/passwd does not have")]
    UnknownUser(String),
    #[error("the image runs as group {0:?}, which its /etc/group does not have")]
    UnknownGroup(String),
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// What `user` (`name|uid[:group|gid]`, empty = root) means in an image with these files.
///
/// A number is taken as it is; a user without an entry belongs to group 0.
///
/// # Errors
/// When a name is not in the files.
pub fn look_up(user: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let uid = user.parse().ok();
    let entry = passwd
        .lines()
        .filter_map(passwd_entry)
        .find(|entry| entry.name == user || uid == Some(entry.uid));
    let uid = match (&entry, uid) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(UserError::UnknownUser(user.to_owned())),
    };
    let groups: Vec<_> = group.lines().filter_map(group_entry).collect();
    let gid = match wanted_group {
        None => entry.as_ref().map_or(0, |entry| entry.gid),
        Some(wanted) => match groups.iter().find(|group| group.name == wanted) {
            Some(group) => group.gid,
            None => wanted.parse().map_err(|_| UserError::UnknownGroup(wanted.to_owned()))?,
        },
    };
    // As elsewhere, a group that is given takes the place of all memberships.
    let name = entry.as_ref().filter(|_| wanted_group.is_none()).map(|entry| entry.name);
    let member = |group: &&Group| name.is_some_and(|n| group.members.split(',').any(|m| m == n));
    let mut additional: Vec<_> = groups.iter().filter(member).map(|group| group.gid).collect();
    additional.retain(|other| *other != gid);
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(User { uid, gid, groups: additional, home: home.to_owned() })
}

fn passwd_entry(line: &str) -> Option<Passwd<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).unwrap_or_default();
    Some(Passwd { name, uid, gid, home })
}

fn group_entry(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some(Group { name, gid, members: fields.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # not an entry\n\
        web:x:101:102:web server:/var/www:/bin/false\n\
        bare:x:7:7\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nssl:x:50:web,other\nadm:x:4:root\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User { uid, gid, groups: groups.to_vec(), home: home.into() }
    }

    #[test]
    fn names_and_numbers_are_looked_up() {
        for (text, expected) in [
            ("", user(0, 0, &[4], "/root")),
            ("root", user(0, 0, &[4], "/root")),
            ("web", user(101, 102, &[50], "/var/www")),
            ("101", user(101, 102, &[50], "/var/www")),
            ("web:ssl", user(101, 50, &[], "/var/www")),
            ("web:9", user(101, 9, &[], "/var/www")),
            ("web:", user(101, 102, &[50], "/var/www")),
            ("4242", user(4242, 0, &[], "/")),
            ("4242:4343", user(4242, 4343, &[], "/")),
            ("bare", user(7, 7, &[], "/")),
        ] {
            assert_eq!(look_up(text, PASSWD, GROUP), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn an_image_without_the_files_knows_numbers_only() {
        assert_eq!(look_up("", "", ""), Ok(user(0, 0, &[], "/")));
        assert_eq!(look_up("web", "", ""), Err(UserError::UnknownUser("web".into())));
        assert_eq!(look_up("1:web", "", ""), Err(UserError::UnknownGroup("web".into())));
    }
}
