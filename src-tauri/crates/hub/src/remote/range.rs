//! Bytes of one file at one commit.

use bytes::Bytes;
use reqwest::{StatusCode, header};

use super::{Remote, host};
use crate::{HubError, listing::RemoteFile};

/// Bytes `start..end` of a file, piece by piece.
pub(crate) struct Body {
    response: reqwest::Response,
    remote: Remote,
    left: u64,
}

impl Remote {
    /// Opens `start..end` of a file. The answer's commit, checksum and size must be those of the listing.
    ///
    /// # Errors
    /// `Changed` if they are not, those of `listing`, and those that pass.
    pub(crate) async fn range(
        &self,
        id: &str,
        commit: &str,
        file: &RemoteFile,
        start: u64,
        end: u64,
    ) -> Result<Body, HubError> {
        debug_assert!(start < end && end <= file.size);
        let parts = id.split('/').chain(["resolve", commit]).chain(file.path.split('/'));
        let range = format!("bytes={start}-{}", end - 1);
        let got = self.follow(self.url(parts), Some(&range), id, commit).await?;
        let changed = || HubError::Changed { file: file.path.clone() };
        if got.commit.is_some_and(|found| found != commit) || got.etag.is_some_and(|etag| etag != file.blob) {
            return Err(changed());
        }
        let response = got.response;
        let host = host(response.url());
        let bad = |what: String| HubError::BadAnswer { host: host.clone(), what };
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let value =
                    response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
                let (first, total) =
                    value.and_then(content_range).ok_or_else(|| bad(format!("Content-Range {value:?}")))?;
                if total.is_some_and(|total| total != file.size) {
                    return Err(changed());
                }
                if first != start {
                    return Err(bad(format!("bytes from {first} on instead of {start}")));
                }
            }
            // A server without ranges: good for a file asked for from its start, useless for the rest of one.
            StatusCode::OK if start == 0 => {
                if response.content_length().is_some_and(|length| length != file.size) {
                    return Err(changed());
                }
            }
            status => return Err(bad(format!("status {status} to a request for a range"))),
        }
        Ok(Body { response, remote: self.clone(), left: end - start })
    }

    /// Bytes `start..end` at once, for headers and small files.
    pub(crate) async fn bytes(
        &self,
        id: &str,
        commit: &str,
        file: &RemoteFile,
        start: u64,
        end: u64,
    ) -> Result<Vec<u8>, HubError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let mut body = self.range(id, commit, file, start, end).await?;
        let mut all = Vec::new();
        while let Some(piece) = body.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

impl Body {
    /// The next piece; none after the last byte. A connection that ends before that is an error.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, HubError> {
        if self.left == 0 {
            return Ok(None);
        }
        match self.response.chunk().await {
            Ok(Some(mut piece)) => {
                // A server without ranges sends more than was asked for.
                piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= piece.len() as u64;
                Ok(Some(piece))
            }
            Ok(None) => Err(HubError::Unreachable {
                host: host(self.response.url()),
                cause: format!("the connection ended {} bytes early", self.left),
            }),
            Err(error) => Err(self.remote.broken(&error)),
        }
    }
}

/// First byte and total of `bytes 0-99/1000`; the total may be `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-')?.0.trim().parse().ok()?;
    match total.trim() {
        "*" => Some((first, None)),
        total => Some((first, Some(total.parse().ok()?))),
    }
}
