//! Log in, and the accounts behind it.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use xylem_types::rest::{
    Done, LoginRequest, LoginResponse, PasswordChange, RefreshResponse, RegisterRequest,
};

use super::error::{ApiError, Body, Refreshing, User};
use crate::{
    auth::{Auth, TokenKind, hash_password},
    core::{account, refusal::Refusal},
    engine::Engine,
};

/// `POST /api/auth/login`: 401 when name, password or organization are wrong.
pub(crate) async fn login(
    State(engine): State<Engine>,
    State(auth): State<Auth>,
    Body(request): Body<LoginRequest>,
) -> Result<Json<LoginResponse>, ApiError> {
    let name = request.username.clone();
    let known = engine
        .ask(move |state, _| Ok(state.user(&name).map(|(id, user)| (id.clone(), user.clone()))))
        .await?;
    let hash = known.as_ref().map(|(_, user)| user.password_hash.clone());
    let matches = auth.check_password(request.password, hash).await?;
    let organization = request.organization_name.filter(|name| !name.is_empty());
    match known {
        Some((id, user))
            if matches && organization.is_none_or(|name| name == user.organization) =>
        {
            let now = Timestamp::now();
            let sign =
                |kind| auth.sign(kind, &id, &user.name, &user.roles, &user.organization, now);
            Ok(Json(LoginResponse {
                token: sign(TokenKind::Access)?,
                refresh_token: sign(TokenKind::Refresh)?,
            }))
        }
        _ => Err(ApiError::new(StatusCode::UNAUTHORIZED, "the user name or password is wrong")),
    }
}

/// `POST /api/auth/refresh`, with the refresh token: another access token, with the roles that
/// the user has now.
pub(crate) async fn refresh(
    State(engine): State<Engine>,
    State(auth): State<Auth>,
    Refreshing(claims): Refreshing,
) -> Result<Json<RefreshResponse>, ApiError> {
    let id = claims.user.clone();
    let user = engine
        .ask(move |state, _| {
            state.users.get(&id).cloned().ok_or_else(|| Refusal::not_found("user", &id))
        })
        .await?;
    let token = auth.sign(
        TokenKind::Access,
        &claims.user,
        &user.name,
        &user.roles,
        &user.organization,
        Timestamp::now(),
    )?;
    Ok(Json(RefreshResponse { token }))
}

/// `POST /api/auth/register`, by an Admin: 409 when there is a user of that name.
pub(crate) async fn register(
    State(engine): State<Engine>,
    user: User,
    Body(request): Body<RegisterRequest>,
) -> Result<Json<Done>, ApiError> {
    user.caller.require_admin().map_err(ApiError::from)?;
    if request.name.is_empty() || request.password.is_empty() {
        return Err(Refusal::field("name, password", "must not be empty").into());
    }
    let hash = hash(request.password).await?;
    engine
        .ask(move |state, now| {
            state.add_user(&request.name, &request.email, hash, request.roles, now)
        })
        .await?;
    Ok(Json(Done::ok()))
}

/// `POST /api/user/{name}`, by that user: another password. 401 when the old one is wrong.
pub(crate) async fn change_password(
    State(engine): State<Engine>,
    State(auth): State<Auth>,
    user: User,
    Path(name): Path<String>,
    Body(request): Body<PasswordChange>,
) -> Result<Json<Done>, ApiError> {
    if user.name != name {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "only the user itself may do this"));
    }
    if request.new_password.is_empty() {
        return Err(Refusal::field("newPassword", "must not be empty").into());
    }
    let id = user.caller.user_id;
    let wanted = id.clone();
    let old: account::User = engine
        .ask(move |state, _| {
            state.users.get(&wanted).cloned().ok_or_else(|| Refusal::not_found("user", &wanted))
        })
        .await?;
    if !auth.check_password(request.old_password, Some(old.password_hash)).await? {
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "the old password is wrong"));
    }
    let hash = hash(request.new_password).await?;
    engine.ask(move |state, _| state.set_password(&id, hash)).await?;
    Ok(Json(Done::ok()))
}

async fn hash(password: String) -> Result<String, ApiError> {
    tokio::task::spawn_blocking(move || hash_password(&password))
        .await
        .map_err(|_| crate::auth::AuthError::ShuttingDown)?
        .map_err(ApiError::from)
}
