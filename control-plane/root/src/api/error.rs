//! Refusals as HTTP answers, and the request parts whose refusals are ours.

use axum::{
    Json,
    extract::{FromRef, FromRequest, FromRequestParts, Request},
    http::{StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use xylem_types::{
    rest,
    sla::{FieldError, InvalidSla, Sla},
};

use crate::{
    auth::{Auth, AuthError, Claims, TokenKind},
    core::{
        account::{ADMIN, Caller},
        refusal::Refusal,
    },
    engine::AskError,
};

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    errors: Vec<FieldError>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), errors: Vec::new() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = rest::Refusal { message: self.message, errors: self.errors };
        (self.status, Json(body)).into_response()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::NotFound { .. } => StatusCode::NOT_FOUND,
            Refusal::Exists { .. } | Refusal::Exhausted { .. } => StatusCode::CONFLICT,
            Refusal::NotAdmin => StatusCode::FORBIDDEN,
        };
        let message = refusal.to_string();
        let errors = match refusal {
            Refusal::Invalid(errors) => errors,
            _ => Vec::new(),
        };
        Self { status, message, errors }
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(refusal) => refusal.into(),
            AskError::Unavailable => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let status = match error {
            AuthError::BadToken => StatusCode::UNAUTHORIZED,
            AuthError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            AuthError::Sign(_) | AuthError::Hash(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<InvalidSla> for ApiError {
    fn from(invalid: InvalidSla) -> Self {
        Refusal::from(invalid).into()
    }
}

pub(crate) async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no {} here", uri.path()))
}

/// The body as JSON of a known shape. What does not fit is a 422, whatever its content type
/// says: Oakestra's clients do not all send one.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = bytes_of(request, state).await?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Refusal::field("", &format!("the body does not fit: {error}")).into())
    }
}

/// The body as a deployment descriptor.
#[derive(Debug)]
pub(crate) struct SlaBody(pub(crate) Sla);

impl<S: Send + Sync> FromRequest<S> for SlaBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = bytes_of(request, state).await?;
        Ok(Self(Sla::parse(&bytes)?))
    }
}

async fn bytes_of<S: Send + Sync>(
    request: Request,
    state: &S,
) -> Result<axum::body::Bytes, ApiError> {
    axum::body::Bytes::from_request(request, state)
        .await
        .map_err(|rejection| ApiError::new(rejection.status(), rejection.body_text()))
}

/// A verified token of one kind.
fn claims(parts: &Parts, auth: &Auth, kind: TokenKind) -> Result<Claims, ApiError> {
    let token = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| {
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                "this takes a token: log in and send it as \"Authorization: Bearer TOKEN\"",
            )
        })?;
    Ok(auth.verify(token, kind)?)
}

/// Who asks, by the access token.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) caller: Caller,
    pub(crate) name: String,
}

impl<S> FromRequestParts<S> for User
where
    S: Send + Sync,
    Auth: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let claims = claims(parts, &Auth::from_ref(state), TokenKind::Access)?;
        let admin = claims.roles.iter().any(|role| role == ADMIN);
        Ok(Self { caller: Caller { user_id: claims.user, admin }, name: claims.sub })
    }
}

/// Who asks, by the refresh token.
#[derive(Debug)]
pub(crate) struct Refreshing(pub(crate) Claims);

impl<S> FromRequestParts<S> for Refreshing
where
    S: Send + Sync,
    Auth: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Self(claims(parts, &Auth::from_ref(state), TokenKind::Refresh)?))
    }
}
