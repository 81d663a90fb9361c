//! What the AWS tools are told by their environment and `~/.aws/config`, and opendal does not look for: region and
//! endpoint. Keys it finds by itself, in their order.

use std::path::PathBuf;

/// Settings that neither the URL nor anybody else has to repeat.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

impl Settings {
    /// Of the environment, else of the profile.
    pub(super) fn find(profile: Option<&str>) -> Self {
        let env = |names: &[&str]| names.iter().find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()));
        let profile =
            profile.map(str::to_owned).or_else(|| env(&["AWS_PROFILE"])).unwrap_or_else(|| "default".into());
        let path = env(&["AWS_CONFIG_FILE"])
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".aws/config")));
        let text = path.and_then(|p| std::fs::read_to_string(p).ok()).unwrap_or_default();
        let file = Self::parse(&text, &profile);
        Self {
            region: env(&["AWS_REGION", "AWS_DEFAULT_REGION"]).or(file.region),
            endpoint: env(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]).or(file.endpoint),
        }
    }

    /// Reads the section of a profile: `[default]` or `[profile NAME]`.
    fn parse(text: &str, profile: &str) -> Self {
        let (mut found, mut inside) = (Self::default(), false);
        // What is indented belongs to the line above it, as in `s3 =`.
        for line in text.lines().filter(|l| !l.starts_with([' ', '\t', '#', ';'])) {
            let line = line.trim();
            if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                let mut words = section.split_whitespace();
                inside = match (words.next(), words.next()) {
                    (Some("profile"), Some(name)) => name == profile,
                    (Some(name), None) => name == profile,
                    _ => false,
                };
                continue;
            }
            if let Some((name, value)) = line.split_once('=').filter(|_| inside) {
                let value = Some(value.trim().to_owned()).filter(|v| !v.is_empty());
                match name.trim() {
                    "region" => found.region = value,
                    "endpoint_url" => found.endpoint = value,
                    _ => {}
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_of_the_profile_counts() {
        let text = "# mine\n[default]\nregion = eu-central-1\n[profile work]\nregion=us-west-2\nendpoint_url = https://s3.example\n\
                    s3 =\n  region = nested\n[profile other]\nregion = x\n";
        let settings = |profile| Settings::parse(text, profile);
        assert_eq!(settings("default"), Settings { region: Some("eu-central-1".into()), endpoint: None });
        let work = Settings { region: Some("us-west-2".into()), endpoint: Some("https://s3.example".into()) };
        assert_eq!(settings("work"), work);
        assert_eq!(settings("none"), Settings::default());
    }
}
