//! Who may do what.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::support::{PASSWORD, TestRoot, sla};

#[tokio::test]
async fn every_call_but_login_takes_a_token() {
    let root = TestRoot::start().await;
    for (method, path) in [
        (Method::GET, "/api/applications/"),
        (Method::POST, "/api/application/"),
        (Method::GET, "/api/services/"),
        (Method::GET, "/api/clusters/active"),
        (Method::GET, "/api/nodes/"),
        (Method::PUT, "/api/nodes/x/availability"),
        (Method::POST, "/api/auth/refresh"),
        (Method::POST, "/api/auth/register"),
        (Method::DELETE, "/api/service/x/instance/-1"),
    ] {
        for token in ["", "nonsense", "a.b.c"] {
            let (status, answer) = root.call_as(token, method.clone(), path, None).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert!(answer["message"].is_string(), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_wrong_name_password_or_organization_is_refused() {
    let root = TestRoot::start().await;
    for body in [
        json!({ "username": "Admin", "password": "Admin" }),
        json!({ "username": "nobody", "password": PASSWORD }),
        json!({ "username": "Admin", "password": PASSWORD, "organization_name": "other" }),
    ] {
        let (status, _) = root.call_as("", Method::POST, "/api/auth/login", Some(body)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let (status, _) = root.call_as("", Method::POST, "/api/auth/login", Some(json!({}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_refresh_token_gives_an_access_token_and_nothing_else() {
    let root = TestRoot::start().await;
    let body = json!({ "username": "Admin", "password": PASSWORD, "organization_name": "root" });
    let (_, answer) = root.call_as("", Method::POST, "/api/auth/login", Some(body)).await;
    let refresh = answer["refresh_token"].as_str().unwrap();
    let (status, _) = root.call_as(refresh, Method::GET, "/api/clusters", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, answer) = root.call_as(refresh, Method::POST, "/api/auth/refresh", None).await;
    assert_eq!(status, StatusCode::OK);
    let access = answer["token"].as_str().unwrap();
    let (status, _) = root.call_as(access, Method::GET, "/api/clusters", None).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = root.call_as(access, Method::POST, "/api/auth/refresh", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_belongs_to_somebody_else_is_not_there() {
    let root = TestRoot::start().await;
    let account = json!({ "name": "eve", "password": "eve", "roles": ["Application_Provider"] });
    root.post("/api/auth/register", Some(account.clone())).await;
    let (status, _) = root.call(Method::POST, "/api/auth/register", Some(account.clone())).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let eve = root.login("eve", "eve").await;
    let (status, _) = root.call_as(&eve, Method::POST, "/api/auth/register", Some(account)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);

    let services = root.create(sla("shop", &["web"])).await;
    let application = root.get("/api/applications").await[0]["_id"].clone();
    let application = application.as_str().unwrap();
    root.scale_up(&services[0]).await;
    for (method, path) in [
        (Method::GET, format!("/api/application/{application}")),
        (Method::DELETE, format!("/api/application/{application}")),
        (Method::GET, format!("/api/services/{application}")),
        (Method::GET, format!("/api/service/{}", services[0])),
        (Method::DELETE, format!("/api/service/{}", services[0])),
        (Method::POST, format!("/api/service/{}/instance", services[0])),
        (Method::DELETE, format!("/api/service/{}/instance/0", services[0])),
        (Method::GET, "/api/application/none".to_owned()),
    ] {
        let (status, _) = root.call_as(&eve, method.clone(), &path, None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    for path in ["/api/applications/", "/api/services/"] {
        let (status, answer) = root.call_as(&eve, Method::GET, path, None).await;
        assert_eq!((status, answer), (StatusCode::OK, json!([])), "{path}");
    }
    let (status, own) =
        root.call_as(&eve, Method::POST, "/api/application", Some(sla("mine", &["web"]))).await;
    assert_eq!((status, own.as_array().unwrap().len()), (StatusCode::OK, 1));
    let of_eve = format!("/api/applications/{}", own[0]["userId"].as_str().unwrap());
    assert_eq!(root.get(&of_eve).await, own, "an Admin sees them");
    let (status, seen) = root.call_as(&eve, Method::GET, &of_eve, None).await;
    assert_eq!((status, seen), (StatusCode::OK, own));
    let (status, _) = root.call_as(&eve, Method::GET, "/api/applications/other", None).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_password_can_be_changed_by_its_user() {
    let root = TestRoot::start().await;
    let change = |old: &str| Some(json!({ "oldPassword": old, "newPassword": "new" }));
    let (status, _) = root.call(Method::POST, "/api/user/Admin", change("wrong")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = root.call(Method::POST, "/api/user/other", change(PASSWORD)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    root.post("/api/user/Admin", change(PASSWORD)).await;
    root.login("Admin", "new").await;
}
